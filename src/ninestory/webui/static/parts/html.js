// What every component is written in: htm's templates over Preact's `h`.
import { h } from "../vendor/preact.js";
import htm from "../vendor/htm.js";

export const html = htm.bind(h);
