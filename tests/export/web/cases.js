// What Python says of the same numbers: tests/export/test_web_modules.py writes it.
import { readFileSync } from "node:fs";

export const cases = JSON.parse(readFileSync(process.env.SMALLGPT_CASES ?? "", "utf8"));
