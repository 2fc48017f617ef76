// One connection to /ninestory/v1/events for all tabs: HTTP/1.1 allows six a host, and each tab would hold one.
const EVENTS = ["hello", "job", "job_event", "models"];
const ports = new Set();
const latest = new Map(); // what a tab that opens later must know: the last of each kind, jobs by id
let source = null;

const tell = (message) => ports.forEach((port) => port.postMessage(message));

function connect() {
  source = new EventSource("/ninestory/v1/events");
  for (const name of EVENTS) {
    source.addEventListener(name, (event) => {
      const message = { name, data: JSON.parse(event.data) };
      if (name === "hello") latest.clear();
      if (name !== "job_event") latest.set(name === "job" ? `job ${message.data.id}` : name, message);
      tell(message);
    });
  }
  source.onerror = () => {
    tell({ name: "lost" });
    if (source.readyState === EventSource.CLOSED) disconnect(); // refused (signed out): a tab asks again when it may
  };
}

function disconnect() {
  source?.close();
  source = null;
}

onconnect = ({ ports: [port] }) => {
  port.onmessage = ({ data }) => {
    if (data === "hello") {
      ports.add(port);
      latest.forEach((message) => port.postMessage(message));
      if (source?.readyState !== EventSource.OPEN) { // one that is on its way may have left before the tab signed in
        disconnect();
        connect();
      }
    } else if (data.dismissed) {
      latest.delete(`job ${data.dismissed}`);
      tell({ name: "job_dismissed", data: { id: data.dismissed } });
    } else {
      ports.delete(port);
      if (!ports.size) disconnect();
    }
  };
};
