import js from "@eslint/js";
import globals from "globals";

export default [
  js.configs.recommended,
  {
    rules: {
      eqeqeq: "error",
      curly: ["error", "multi-line"],
      "no-shadow": "error",
      "no-var": "error",
      "prefer-const": "error",
    },
  },
  { files: ["**/page/*.js"], languageOptions: { globals: globals.browser } },
  { files: ["**/page/worker.js"], languageOptions: { globals: globals.worker } },
  { files: ["**/page/early.js"], languageOptions: { sourceType: "script" } },
  { files: ["**/tests/**/*.js"], languageOptions: { globals: globals.node } },
];
