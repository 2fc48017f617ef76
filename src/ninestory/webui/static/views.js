// The views by their name in the address: those of the floors, from the server's table, and the tools beside them.
import { inLanguage, t } from "./i18n.js";
import { FLOORS } from "./floors.js";

export { FLOORS };
export const TOOLS = ["prompts", "compare", "models", "jobs", "guides", "system"];

const builtFloor = (view) => FLOORS.find((floor) => floor.view === view && floor.folder);
const isTool = (view) => TOOLS.includes(view) || view === "style"; // the parts have no entry in the rail

export const isView = (view) => isTool(view) || Boolean(builtFloor(view));

export function titleOf(view) {
  const floor = builtFloor(view);
  return floor ? inLanguage(floor.title) : t(view);
}

export const titleOfFloor = (number) => inLanguage(FLOORS.find((floor) => floor.number === number)?.title);

/** A job's kind in words, or "" for one that no floor names. */
export const titleOfJobKind = (kind) => inLanguage(FLOORS.find((floor) => kind in floor.job_kinds)?.job_kinds[kind]);

/** Import the component of a view; a floor's style sheet is there before it. */
export async function loadView(view) {
  const floor = builtFloor(view);
  const folder = floor ? `./floors/${floor.folder}` : `./views/${view}`;
  const [module] = await Promise.all([import(`${folder}/index.js`), floor && loadStyle(`${folder}/style.css`)]);
  return module.default;
}

const styles = new Map();
function loadStyle(path) {
  if (!styles.has(path)) {
    styles.set(path, new Promise((resolve, reject) => {
      const href = new URL(path, import.meta.url);
      const fail = () => { styles.delete(path); reject(new Error(`${path} could not be loaded`)); };
      document.head.append(
        Object.assign(document.createElement("link"), { rel: "stylesheet", href, onload: resolve, onerror: fail }),
      );
    }));
  }
  return styles.get(path);
}
