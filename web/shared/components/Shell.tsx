// The frame of every page: a skip link, the header with the choices, the main part, one live region.
import type { ComponentChildren } from "preact";
import { Announcer } from "../a11y";
import { dictionary, useSettings } from "../i18n";
import { SettingsBar } from "./controls";
import "./shell.css";

const WORDS = dictionary({});

interface ShellProps {
  /** What stands at the top left: a name, or a way back. */
  brand: ComponentChildren;
  /** Between brand and settings: states of the whole page. */
  status?: ComponentChildren;
  actions?: ComponentChildren;
  children: ComponentChildren;
}

export function Shell({ brand, status, actions, children }: ShellProps) {
  const { language } = useSettings();
  return (
    <>
      <a class="skip" href="#content">
        {WORDS[language].say("skip_to_content")}
      </a>
      <header class="top">
        <div class="top-brand">{brand}</div>
        <div class="top-status">{status}</div>
        <div class="top-actions">
          {actions}
          <SettingsBar />
        </div>
      </header>
      <Announcer />
      <main id="content" tabIndex={-1}>
        {children}
      </main>
    </>
  );
}

/** The name, with its mark: a calm line that leaves its band once. */
export function Brand({ name }: { name: string }) {
  return (
    <span class="brand">
      <svg width="30" height="30" viewBox="0 0 30 30" aria-hidden="true">
        <rect width="30" height="30" rx="8" fill="var(--accent)" />
        <path
          d="M4 17.5h6l2.2-3 2.3 3h1.6l2.4-10.5 2.6 14 1.7-3.5H26"
          fill="none"
          stroke="var(--accent-ink)"
          stroke-width="2"
          stroke-linecap="round"
          stroke-linejoin="round"
        />
      </svg>
      <span>{name}</span>
    </span>
  );
}
