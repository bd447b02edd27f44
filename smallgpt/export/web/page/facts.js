/**
 * What page.json says of the model; `smallgpt/export/web_facts.py` makes it.
 *
 * @typedef {object} Special ids of special tokens, null for one that the vocabulary lacks
 * @property {number} pad
 * @property {number | null} unk
 * @property {number | null} img
 * @property {number | null} end_img
 * @property {number | null} cls
 * @property {number | null} eos
 *
 * @typedef {object} RowRules how a row becomes the input of classify.onnx
 * @property {number} longest_body
 * @property {number[]} kept_first
 * @property {number[]} append
 *
 * @typedef {object} Familiarity what the training images of a codebook were like
 * @property {number} rmse
 * @property {number[]} surprise
 * @property {number} least
 * @property {number} most
 *
 * @typedef {object} CodebookFacts
 * @property {number} patch_size
 * @property {number} height
 * @property {number} width
 * @property {number} channels
 * @property {number} low
 * @property {number} high
 * @property {number} white
 * @property {Familiarity | null} familiarity
 * @property {number[]} code_ids the id of each code
 *
 * @typedef {object} Box where the subject of the training images stands, as shares of the frame
 * @property {number} fill its longer side
 * @property {number} x its centre of mass
 * @property {number} y
 *
 * @typedef {object} DrawingFacts how one draws as the training images are
 * @property {number[]} paper colour of the background, red, green, blue from 0 to 255
 * @property {number} brush width of the stroke as a share of the frame
 * @property {Box | null} box null where the images have no plain background
 *
 * @typedef {object} Facts
 * @property {"images" | "tokens" | "texts" | "instructions"} kind
 * @property {string[]} labels
 * @property {number[]} label_ids
 * @property {RowRules} row
 * @property {Special} special
 * @property {"label" | "no label" | "either"} end how rows of training ended
 * @property {boolean} pairs whether a row is two texts, parted by <SEP>
 * @property {boolean} reads_unknown whether tokens that the vocabulary lacks are read as <UNK>
 * @property {number[]} starts ids that a tokenizer puts before each text
 * @property {[number, number][]} first_tokens ids that training rows began with, how often
 * @property {number} max_length
 * @property {boolean} server whether the server of the page computes, and not the page
 * @property {boolean} predicts_tokens false of a model with a label head
 * @property {number | null} parameters null where they are not known
 * @property {number} vocabulary how many tokens there are
 * @property {CodebookFacts | null} codebook
 * @property {DrawingFacts | null} drawing
 *
 * @typedef {object} GraphFacts what a page that computes itself knows more
 * @property {number} layers
 * @property {number} heads
 * @property {number} head_size
 * @property {Record<string, number>} files sizes of what is loaded, in bytes
 */

export {};
