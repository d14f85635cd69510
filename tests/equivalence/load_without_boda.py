"""Run as a program: loads model folders as a user without Boda does and writes what they answer. Not a test by itself."""

import json
import sys


class NoBoda:
    """Makes `import boda` fail as it does where Boda is not installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "boda":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main(source: str, picture: str, folders: list[str], target: str) -> None:
    sys.meta_path.insert(0, NoBoda())
    sys.path[:] = [place for place in sys.path if not place.startswith(source)]
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

    found = {}
    for folder in folders:
        with open(f"{folder}/config.json", encoding="utf-8") as stream:
            is_stock = json.load(stream)["model_type"] == "llava"
        trust = {} if is_stock else {"trust_remote_code": True}
        cls = LlavaForConditionalGeneration if is_stock else AutoModelForImageTextToText
        model = cls.from_pretrained(folder, dtype=torch.float32, **trust).eval()
        processor = AutoProcessor.from_pretrained(folder, **trust)
        content = [{"type": "image", "image": Image.open(picture)}, {"type": "text", "text": "이것은 무엇인가요?"}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )
        with torch.no_grad():
            logits = model(**inputs).logits[0]
            answer = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0]
        found[folder] = {
            "logits": logits,
            "input_ids": inputs["input_ids"][0],
            "answer": answer,
            "class": type(model).__name__,
            "module": type(model).__module__,
            "tied": model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr(),
            "end_ids": model.generation_config.eos_token_id,
        }
    assert not any(name.partition(".")[0] == "boda" for name in sys.modules)
    torch.save(found, target)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[4:], sys.argv[3])
