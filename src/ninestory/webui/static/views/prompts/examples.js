// One prompt for each of the usual tasks, in both languages, to begin with: [name, text].
export const EXAMPLES = [
  {
    en: ["Summarise for a reader", `Summarise the text between the tags in at most 30 words, for {{reader}}.

<text>
{{text}}
</text>`],
    zh: ["为特定读者概括", `请用不超过 50 个字概括标签内的文字，读者是{{读者}}。

<text>
{{文本}}
</text>`],
  },
  {
    en: ["Sentiment and item as JSON", `From the review between the tags give JSON with two keys:
"sentiment" (positive or negative) and "item". Write "unknown" for what is not said.

<review>
{{review}}
</review>`],
    zh: ["情感与商品（JSON）", `根据标签内的评论输出 JSON，含两个键："sentiment"（positive 或 negative）与 "item"。
未提及的写 "unknown"。

<review>
{{评论}}
</review>`],
  },
  {
    en: ["Translate", `Translate into {{language}}. Answer with the translation only.

{{text}}`],
    zh: ["翻译", `请翻译为{{语言}}，只输出译文。

{{文本}}`],
  },
  {
    en: ["Check work before judging it", `First solve the problem yourself, step by step.
Then compare your solution with the student's, and say whether the student is right.

Problem: {{problem}}

Student: {{solution}}`],
    zh: ["先解题再评判", `请先逐步自行解题，再与学生的解答比较，最后判断其是否正确。

题目：{{题目}}

学生解答：{{解答}}`],
  },
  {
    en: ["Reply to a customer", `Write a short reply to the customer's message: thank them, go into what they say,
and sign as an AI assistant.

<message>
{{message}}
</message>`],
    zh: ["回复客户", `请为客户来信写一封简短回复：致谢，回应具体内容，并署名“AI 助手”。

<message>
{{来信}}
</message>`],
  },
];
