// Buttons, dialogs, notices and the choice of language and theme. Native elements, so that keyboards and screen readers work.
import type { ButtonHTMLAttributes, ComponentChildren } from "preact";
import { useEffect, useId, useRef } from "preact/hooks";
import { dictionary, useSettings } from "../i18n";
import { settings } from "../settings";
import { Icon, type IconName } from "./Icon";
import "./controls.css";

const WORDS = dictionary({});

interface ButtonProps extends Omit<ButtonHTMLAttributes<HTMLButtonElement>, "icon" | "type"> {
  icon?: IconName;
  kind?: "primary" | "plain" | "danger" | "ghost";
  type?: "button" | "submit";
  children: ComponentChildren;
}

export function Button({ icon, kind = "plain", type = "button", children, ...rest }: ButtonProps) {
  return (
    <button {...rest} type={type} class={`button button-${kind}`}>
      {icon && <Icon name={icon} size={18} />}
      <span>{children}</span>
    </button>
  );
}

interface DialogProps {
  title: string;
  open: boolean;
  onClose: () => void;
  children: ComponentChildren;
}

/** A modal dialog. The browser keeps the focus inside, closes on Escape, and gives the focus back. */
export function Dialog({ title, open, onClose, children }: DialogProps) {
  const ref = useRef<HTMLDialogElement>(null);
  const heading = useId();
  const { language } = useSettings();
  useEffect(() => {
    const dialog = ref.current;
    if (open && dialog && !dialog.open) dialog.showModal();
    if (!open && dialog?.open) dialog.close();
  }, [open]);
  return (
    <dialog ref={ref} class="dialog" aria-labelledby={heading} onClose={onClose}>
      {open && (
        <>
          <header class="row spread">
            <h2 id={heading}>{title}</h2>
            <button type="button" class="icon-button" onClick={onClose} aria-label={WORDS[language].say("close")}>
              <Icon name="cross" />
            </button>
          </header>
          <div class="dialog-body stack">{children}</div>
        </>
      )}
    </dialog>
  );
}

/** A line across the page that something is not as it should be. `urgent` interrupts a screen reader. */
export function Notice({ kind, icon, children }: { kind: "info" | "warning" | "lost"; icon: IconName; children: ComponentChildren }) {
  return (
    <div class={`notice notice-${kind}`} role={kind === "lost" ? "alert" : "status"}>
      <Icon name={icon} />
      <div>{children}</div>
    </div>
  );
}

/** How far something has come; `text` is what is shown and read out. */
export function Progress({ share, text }: { share: number; text: string }) {
  const label = useId();
  const value = Math.round(Math.min(1, Math.max(0, share)) * 100);
  return (
    <div class="progress">
      <div id={label}>{text}</div>
      <div class="progress-track" role="progressbar" aria-labelledby={label} aria-valuemin={0} aria-valuemax={100} aria-valuenow={value}>
        <span class="progress-done" style={{ width: `${value}%` }} />
      </div>
    </div>
  );
}

/** Language and theme, for a page's header. */
export function SettingsBar() {
  const { language, theme } = useSettings();
  const words = WORDS[language];
  return (
    <div class="settings row">
      <div class="segmented" role="group" aria-label={words.say("language")}>
        {(["en", "fr"] as const).map((code) => (
          <button
            key={code}
            type="button"
            lang={code}
            aria-pressed={language === code}
            aria-label={code === "en" ? "EN, English" : "FR, français"}
            onClick={() => settings.set({ language: code })}
          >
            {code.toUpperCase()}
          </button>
        ))}
      </div>
      <button
        type="button"
        class="icon-button"
        aria-label={`${words.say("theme")}: ${words.say(theme === "light" ? "dark" : "light")}`}
        onClick={() => settings.set({ theme: theme === "light" ? "dark" : "light" })}
      >
        <Icon name={theme === "light" ? "moon" : "sun"} />
      </button>
    </div>
  );
}
