// Small things that stand in several views: what people said, why something is not there.
import { ApiError } from "@shared/api";
import { Icon } from "@shared/components/Icon";
import { Button, Notice } from "@shared/components/controls";
import { useSettings } from "@shared/i18n";
import type { Status } from "./types";
import { WORDS } from "./words";

const ICONS = { new: "info", confirmed: "check", dismissed: "cross" } as const;

export function StatusMark({ status }: { status: Status }) {
  const { language } = useSettings();
  return (
    <span class={`status status-${status}`}>
      <Icon name={ICONS[status]} size={15} />
      {WORDS[language].say(`status_${status}`)}
    </span>
  );
}

export function Failed({ error, again }: { error: ApiError; again: () => void }) {
  const { language } = useSettings();
  const words = WORDS[language];
  return (
    <div class="stack">
      <Notice kind="warning" icon="offline">
        {error.status === 0 ? words.say("error_unreachable") : error.message}
      </Notice>
      <Button icon="sync" onClick={again}>
        {words.say("try_again")}
      </Button>
    </div>
  );
}

export function Loading() {
  const { language } = useSettings();
  return (
    <p class="quiet loading" role="status">
      {WORDS[language].say("loading")}
    </p>
  );
}

/** Links to the same thing in several formats. */
export function Exports({ path, query, formats = ["csv", "parquet", "jsonl"] }: { path: string; query: URLSearchParams; formats?: string[] }) {
  return (
    <span class="exports">
      {formats.map((format) => {
        const asked = new URLSearchParams(query);
        asked.set("format", format);
        return (
          <a key={format} class="chip" href={`${path}?${asked}`} download="">
            <Icon name="download" size={15} />
            {{ csv: "CSV", parquet: "Parquet", jsonl: "JSON" }[format] ?? format}
          </a>
        );
      })}
    </span>
  );
}
