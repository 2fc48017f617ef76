// What the votes say: a rating for every model, with the interval it lies in.
import { useEffect, useState } from "../../vendor/hooks.js";
import { html, Name, Table, complain } from "../../parts.js";
import { t } from "./i18n.js";
import { own } from "../../api.js";

export function Leaderboard() {
  const [board, setBoard] = useState(null);
  useEffect(() => { own("GET", "/votes/leaderboard").then(setBoard).catch(complain); }, []);
  if (!board) return null;
  const columns = ["model", "rating", "interval", "battles", "wins", "losses", "ties"].map((key) => t(key));
  const rows = board.data.map((row, i) => [
    html`${i + 1}. <${Name}>${row.model}<//>`, Math.round(row.rating),
    `${Math.round(row.interval.low)} – ${Math.round(row.interval.high)}`, row.battles, row.wins, row.losses, row.ties,
  ]);
  return html`${board.votes > 0 && html`<p class="quiet">${t("leaderboardHelp", { n: board.votes })}</p>`}
    <${Table} caption=${t("leaderboard")} columns=${columns} rows=${rows} empty=${t("noVotes")} />`;
}
