// A memory plan by device: what each takes, what it has free, and whether that fits.
import { html } from "./html.js";
import { bytes } from "./format.js";
import { t } from "../i18n.js";

/** One line a device that is used; a card goes by its own name. */
export function Devices({ plan }) {
  return plan.devices.filter((device) => device.needed_bytes > 0).map((device) => html`<span>${
    device.name ? html`<span translate=${false}>${device.device} ${device.name}</span>` : t("memory")}: ${
      t(device.fits ? "memoryFits" : "memoryDoesNotFit",
        { size: bytes(device.needed_bytes), free: bytes(device.free_bytes) })}</span><br />`);
}

/** Whether a plan uses more than main memory. */
export const usesCards = (plan) => plan.devices.some((device) => device.name && device.needed_bytes > 0);
