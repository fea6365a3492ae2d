import { useId, useState } from "preact/hooks";
import { ApiError, api } from "@shared/api";
import { Button } from "@shared/components/controls";
import { useSettings } from "@shared/i18n";
import { WORDS } from "./words";

export function Login({ onDone }: { onDone: () => void }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const [token, setToken] = useState("");
  const [error, setError] = useState("");
  const field = useId();
  const send = (event: Event): void => {
    event.preventDefault();
    api.post("api/login", { token }).then(onDone, (reason: unknown) => {
      if (!(reason instanceof ApiError)) throw reason;
      setError(
        reason.status === 401 ? words.say("login_refused") : reason.status === 0 ? words.say("error_unreachable") : reason.message,
      );
    });
  };
  return (
    <form class="card login stack" onSubmit={send}>
      <h1>{words.say("login_title")}</h1>
      <div class="field">
        <label for={field}>{words.say("login_token")}</label>
        <input
          id={field}
          type="password"
          autocomplete="current-password"
          required
          value={token}
          aria-describedby={`${field}-hint ${field}-error`}
          aria-invalid={error !== ""}
          onInput={(event) => setToken(event.currentTarget.value)}
        />
        <p id={`${field}-hint`} class="small quiet">
          {words.say("login_hint")}
        </p>
        <p id={`${field}-error`} class="field-error" role="alert">
          {error}
        </p>
      </div>
      <Button type="submit" kind="primary">
        {words.say("login_go")}
      </Button>
    </form>
  );
}
