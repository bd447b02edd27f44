/** What the page says, in English and Chinese; `{name}` stands for a value. */

const ENGLISH = {
  language: "English",
  languages: "Language",
  loading: "Loading the model, {loaded} of {total} MB",
  broken: "The page could not load its model: {error}. Is the folder complete?",
  failed: "The model could not be computed: {error}",
  titleImages: "Draw for a small GPT",
  titleTokens: "Write rows for a small GPT",
  titleTexts: "Write with a small GPT",
  titleInstructions: "Ask a small GPT",
  trainedSized: "{parameters} parameters, trained on {what}.",
  trained: "Trained on {what}.",
  runsHere: " It runs in this page.",
  runsThere: " It runs on the server of this page.",
  whatImages: "images of {width} × {height} pixels",
  whatTokens: "rows of tokens",
  whatTexts: "texts",
  whatInstructions: "instructions and their answers",
  footerImages: "Nothing that you draw or open leaves this page: there is no server that computes, and no request to another site.",
  footerRows: "Nothing that you write leaves this page: there is no server that computes, and no request to another site.",
  footerServer: "What you write, and the patches of what you draw, go to the server of this page, which computes; no other site is asked.",

  noWasm: "This browser has no WebAssembly, or it is turned off: the model cannot be computed here.",
  loadingServer: "Asking the server",
  brokenServer: "The page could not learn from its server what model it has: {error}",
  busy: "The server is busy. The page asks again by itself.",
  gone: "The server does not answer. The page asks again by itself.",
  token: "This server wants its token",
  tokenGive: "Open",
  tokenHint: "Whoever started the server has it. This tab keeps it until it is closed.",
  tokenWrong: "That is not the token of this server.",

  draw: "Draw",
  drawHint: "With mouse, finger or pen. By keyboard: arrow keys move, Space lowers and lifts the pen, U undoes, Delete clears.",
  pad: "Drawing surface",
  brush: "Brush",
  colour: "Colour",
  white: "White",
  black: "Black",
  red: "Red",
  orange: "Orange",
  yellow: "Yellow",
  green: "Green",
  blue: "Blue",
  purple: "Purple",
  undo: "Undo",
  clear: "Clear",
  open: "Open an image",
  invert: "Invert",
  dropHere: "Drop the image here",
  notAnImage: "{name} is no image that this browser can read.",
  penDown: "Pen down",
  penUp: "Pen up",

  says: "What it is",
  saysNothing: "Draw something, and the model says what it is.",
  best: "{label}, {share}",
  others: "and {count} more labels, together {share}",
  sees: "What the model sees",
  seesCodes: "{count} patches, each the nearest of the {all} that it knows.",
  center: "Moved and scaled as in the training images",
  unlike: "This does not look like the training images: the answer means little.",
  unlikeInverted: "The training images have dark and bright the other way round.",

  imagines: "What the model imagines",
  temperature: "Temperature",
  temperatureHint: "Low: the usual. High: the unusual. 0: always the likeliest.",
  goesOn: "Your drawing, completed",
  goesOnHint: "The model keeps the upper part of what you draw, where you draw it, and makes the rest.",
  goesOnNothing: "Draw the upper part of something.",
  kept: "Upper part that stays",
  keptRows: "{kept} of {rows} rows",
  again: "Again",
  madeUp: "Made up from nothing",
  makeUp: "Make up images",
  madeUpOne: "Made-up image {number}",
  madeUpLabel: "Made-up image {number}, read as {label}",
  completedOne: "Completion {number}",

  tokens: "Tokens of a row, parted by spaces",
  text: "Text",
  instruction: "Instruction",
  typeTokens: "Type tokens: known ones are offered.",
  typeText: "Type a text.",
  typePair: "One text <SEP> another text",
  pairHint: "The model reads pairs: write <SEP> between the two texts.",
  typeInstruction: "Type an instruction.",
  suggestions: "Known tokens",
  goOn: "Go on",
  answer: "Answer",
  stop: "Stop",
  answered: "The answer",
  next: "What comes next",
  nextHint: "The likeliest next tokens. Choose one to go on with it.",
  nextNothing: "Type, or let the model begin.",
  ends: "the end",
  surprise: "How surprised the model was",
  surpriseHint: "Each token by its surprise in nats: 0 was certain, {even} a blind guess among all tokens.",
  surpriseMean: "On average {mean} nats a token.",
  surpriseOf: "{token}: {nats} nats",
  firstToken: "{token}: the first, not predicted",
  labels: "Its label",
  labelOfCut: "The row is too long: this is the label of it cut to {most} tokens.",

  empty: "Nothing to read yet.",
  unknown: "Not in the vocabulary: {tokens}",
  unknownMore: "Not in the vocabulary: {tokens} and {more} more",
  readUnknown: "Not in the vocabulary, read as unknown: {tokens}",
  refused: "The server does not take it: {message}",
  tooLong: "The row has {count} tokens, and the model was trained on rows of at most {most}: shorten it.",
  full: "The row has {count} of the {most} tokens that the model was trained on: there is no room to go on.",
  whole: "The row is whole: nothing can follow.",
  manyLetters: "That are {count} letters; at most {most} are read.",
  labelInside: "A label stands before the end of the row: it gives the label away.",
  padInside: "<PAD> stands inside the row; it may only fill up its end.",
  nothingBefore: "The row has nothing before its label.",
};

/** @type {typeof ENGLISH} */
const CHINESE = {
  language: "中文",
  languages: "语言",
  loading: "正在加载模型，{loaded} / {total} MB",
  broken: "无法加载模型：{error}。文件夹完整吗？",
  failed: "模型计算失败：{error}",
  titleImages: "画给小 GPT 看",
  titleTokens: "给小 GPT 写一行 token",
  titleTexts: "与小 GPT 一起写",
  titleInstructions: "向小 GPT 提问",
  trainedSized: "{parameters} 个参数，由{what}训练而成，",
  trained: "由{what}训练而成，",
  runsHere: "就在此页中运行。",
  runsThere: "在此页的服务器上运行。",
  whatImages: " {width} × {height} 像素的图像",
  whatTokens: "一行行 token ",
  whatTexts: "文本",
  whatInstructions: "指令及其回答",
  footerImages: "您所画、所打开的一切都不会离开此页：没有服务器参与计算，也不向其他网站发出请求。",
  footerRows: "您所写的一切都不会离开此页：没有服务器参与计算，也不向其他网站发出请求。",
  footerServer: "您所写的文字和所画图像的图块会发送到此页的服务器，由它计算；不向其他网站发出请求。",

  noWasm: "此浏览器没有 WebAssembly 或已将其关闭：无法在此计算模型。",
  loadingServer: "正在询问服务器",
  brokenServer: "本页无法从服务器得知其模型：{error}",
  busy: "服务器正忙，本页会自动重试。",
  gone: "服务器没有回应，本页会自动重试。",
  token: "此服务器需要令牌",
  tokenGive: "打开",
  tokenHint: "启动服务器的人知道它。关闭此标签页之前会一直保留。",
  tokenWrong: "这不是此服务器的令牌。",

  draw: "画",
  drawHint: "用鼠标、手指或笔。用键盘：方向键移动，空格落笔与抬笔，U 撤销，Delete 清除。",
  pad: "画板",
  brush: "笔粗",
  colour: "颜色",
  white: "白",
  black: "黑",
  red: "红",
  orange: "橙",
  yellow: "黄",
  green: "绿",
  blue: "蓝",
  purple: "紫",
  undo: "撤销",
  clear: "清除",
  open: "打开图像",
  invert: "反色",
  dropHere: "把图像放在这里",
  notAnImage: "{name} 不是此浏览器能读的图像。",
  penDown: "落笔",
  penUp: "抬笔",

  says: "这是什么",
  saysNothing: "画点什么，模型会说出它是什么。",
  best: "{label}，{share}",
  others: "另有 {count} 个标签，合计 {share}",
  sees: "模型所见",
  seesCodes: "由 {count} 块图块拼成，每块取它所知 {all} 种中最接近的。",
  center: "像训练图像那样移动并缩放",
  unlike: "这不像训练图像：回答没有多少意义。",
  unlikeInverted: "训练图像的明暗与此相反。",

  imagines: "模型的想象",
  temperature: "温度",
  temperatureHint: "低：常见；高：少见；0：总取最可能的。",
  goesOn: "补全您的画",
  goesOnHint: "模型保留您画的上部（位置不变），并画出其余部分。",
  goesOnNothing: "画出某物的上部。",
  kept: "保留的上部",
  keptRows: "{rows} 行中的 {kept} 行",
  again: "再来",
  madeUp: "凭空画出",
  makeUp: "画几张图",
  madeUpOne: "凭空画出的图像 {number}",
  madeUpLabel: "凭空画出的图像 {number}，读作 {label}",
  completedOne: "补全 {number}",

  tokens: "一行 token，以空格分隔",
  text: "文本",
  instruction: "指令",
  typeTokens: "输入 token：会提示已知的。",
  typeText: "输入一段文本。",
  typePair: "一段文本 <SEP> 另一段文本",
  pairHint: "此模型读成对的文本：请在两段文本之间写 <SEP>。",
  typeInstruction: "输入一条指令。",
  suggestions: "已知的 token",
  goOn: "续写",
  answer: "回答",
  stop: "停止",
  answered: "回答",
  next: "接下来是什么",
  nextHint: "最可能的下一个 token。选一个即可接着写。",
  nextNothing: "请输入，或让模型开头。",
  ends: "结束",
  surprise: "模型有多意外",
  surpriseHint: "每个 token 按其意外程度（奈特）着色：0 为确定，{even} 相当于在所有 token 中盲猜。",
  surpriseMean: "平均每个 token {mean} 奈特。",
  surpriseOf: "{token}：{nats} 奈特",
  firstToken: "{token}：第一个，未作预测",
  labels: "它的标签",
  labelOfCut: "这一行太长：这是截短到 {most} 个 token 后的标签。",

  empty: "还没有可读的内容。",
  unknown: "不在词表中：{tokens}",
  unknownMore: "不在词表中：{tokens} 以及另外 {more} 个",
  readUnknown: "不在词表中，读作未知：{tokens}",
  refused: "服务器不接受：{message}",
  tooLong: "这一行有 {count} 个 token，而模型训练所用的行最多 {most} 个：请缩短。",
  full: "这一行有 {count} 个 token，模型训练所用的行最多 {most} 个：没有续写的余地。",
  whole: "这一行已完整：后面不能再有内容。",
  manyLetters: "共 {count} 个字符；最多读 {most} 个。",
  labelInside: "行尾之前就有标签：它泄露了答案。",
  padInside: "<PAD> 在行的中间；它只能用来填充行尾。",
  nothingBefore: "标签之前没有内容。",
};

const OF = { en: ENGLISH, zh: CHINESE };
const KEY = "smallgpt-language";

/** @typedef {keyof typeof OF} Language */
/** @typedef {keyof typeof ENGLISH} Word */

/** @type {Language} */
let current = "en";

/** @type {Language[]} */
export const LANGUAGES = ["en", "zh"];

/** The language that was chosen before, else that of the browser. */
export function usualLanguage() {
  let kept = null;
  try {
    kept = localStorage.getItem(KEY);
  } catch {
    // A browser may keep nothing.
  }
  const wanted = kept ?? navigator.language;
  return /** @type {Language} */ (/^zh/i.test(wanted) ? "zh" : "en");
}

/**
 * @param {Language} wanted
 * @param {boolean} keep for the next visit
 */
export function setLanguage(wanted, keep) {
  current = wanted;
  document.documentElement.lang = wanted === "zh" ? "zh-Hans" : "en";
  if (!keep) return;
  try {
    localStorage.setItem(KEY, wanted);
  } catch {
    // As above.
  }
}

/** @returns {Language} */
export function language() {
  return current;
}

/** @param {Language} of */
export function nameOf(of) {
  return OF[of].language;
}

/**
 * @param {Word} word
 * @param {Record<string, string | number>} [values]
 * @returns {string}
 */
export function say(word, values = {}) {
  return OF[current][word].replace(/\{(\w+)\}/g, (_, name) => {
    const value = values[name];
    return typeof value === "number" ? value.toLocaleString(current) : String(value);
  });
}

/**
 * Why a row cannot be read.
 *
 * @param {{ reason: string, values: Record<string, string | number> }} problem
 */
export function sayProblem({ reason, values }) {
  const word = /** @type {Word} */ (reason === "unknown" && values.more ? "unknownMore" : reason);
  return say(word, values);
}

/** @param {number} share */
export function percent(share) {
  const digits = share > 0.9995 || share < 0.0005 ? 0 : 1;
  return share.toLocaleString(current, {
    style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits,
  });
}

/** @param {number} value */
export function decimal(value) {
  return value.toLocaleString(current, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
}
