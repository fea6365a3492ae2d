"""List the episodes of a collector page by page, and save each with its samples and as FHIR.

    python examples/export_from_a_collector.py http://127.0.0.1:8765 out [token-file]

Run it again and it goes on where it ended: `out/cursor` remembers the last page.
"""

from __future__ import annotations

import sys
from pathlib import Path

import httpx


def main(argv: list[str]) -> int:
    if len(argv) < 2:
        print(__doc__)
        return 2
    url, out = argv[0].rstrip("/"), Path(argv[1])
    headers = {"Authorization": f"Bearer {Path(argv[2]).read_text().strip()}"} if len(argv) > 2 else {}
    out.mkdir(parents=True, exist_ok=True)
    marker = out / "cursor"
    cursor, n = marker.read_text() if marker.exists() else None, 0
    with httpx.Client(base_url=url, headers=headers, timeout=30) as collector:
        while True:
            asked = {"limit": 100} | ({"cursor": cursor} if cursor else {})
            page = collector.get("/v1/episodes", params=asked).raise_for_status().json()
            for episode in page["episodes"]:
                n += 1
                place = out / episode["id"][:16]
                for ending, path in ((".json", ""), (".fhir.json", "/fhir"), (".raw", "/raw")):
                    answer = collector.get(f"/v1/episodes/{episode['id']}{path}")
                    if answer.status_code == 404 and path == "/raw":
                        continue  # its samples were not sent, or not yet
                    place.with_name(place.name + ending).write_bytes(answer.raise_for_status().content)
                print(f"{episode['subject']}  {episode['start_utc_ns'] / 1e9:.0f}  {episode['decision']}  {place.name}")
            cursor = page.get("next_cursor")
            if not cursor or not page["episodes"]:
                break
            marker.write_text(cursor)
        rows = collector.get("/v1/export", params={"format": "csv"}).raise_for_status().text.splitlines()
    (out / "episodes.csv").write_text("\n".join(rows) + "\n")
    print(f"{n} new episodes; {len(rows) - 1} rows in {out / 'episodes.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
