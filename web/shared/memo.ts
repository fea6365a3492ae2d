// A component that is drawn again only when one of its properties is another: what lies beside a live chart need not be.
import { Component, type ComponentType, h } from "preact";

export function memo<Props extends object>(inner: ComponentType<Props>): ComponentType<Props> {
  return class extends Component<Props> {
    override shouldComponentUpdate(next: Props): boolean {
      const now = this.props as Record<string, unknown>;
      const then = next as Record<string, unknown>;
      return Object.keys({ ...now, ...then }).some((key) => now[key] !== then[key]);
    }

    override render(props: Props) {
      return h(inner, props);
    }
  };
}
