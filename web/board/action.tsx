// Something a person asks the board to do: one at a time, and what went wrong is said where they asked.
import { useCallback, useState } from "preact/hooks";
import { announce } from "@shared/a11y";
import { type Words, useSettings } from "@shared/i18n";
import { messageOf } from "./store";
import { WORDS } from "./words";

interface Answer {
  readonly ok: boolean;
  readonly text?: Words;
}

type Run = (ask: () => Promise<unknown>, then?: () => void) => void;

export function useAction(): [Run, boolean, string] {
  const { language } = useSettings();
  const words = WORDS[language];
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState("");
  const run: Run = useCallback(
    (ask, then) => {
      setBusy(true);
      setFailure("");
      ask()
        .then(
          (answer) => {
            const text = words.pick((answer as Answer | undefined)?.text);
            if (text) announce("action", text);
            then?.();
          },
          (error: unknown) => setFailure(messageOf(error, words.say("error_unreachable"))),
        )
        .finally(() => setBusy(false));
    },
    [words],
  );
  return [run, busy, failure];
}

export function Failure({ text }: { text: string }) {
  return (
    <p class="field-error" role="alert">
      {text}
    </p>
  );
}
