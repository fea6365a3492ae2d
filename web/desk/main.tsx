import { render } from "preact";
import "@shared/base.css";
import "./desk.css";
import { Desk } from "./Desk";

const root = document.getElementById("app");
if (root) render(<Desk />, root);
