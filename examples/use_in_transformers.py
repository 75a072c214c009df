"""Answer with a trained adapter in plain transformers and peft.

python examples/use_in_transformers.py
"""

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import midalign
from midalign.bases import resolve

recipe = midalign.load_recipe("mini", ["updates=5", "seeds=[1]", "output=example-adapters"])
(aligned,) = midalign.train_recipe(recipe, arms=["aligned"])

base = resolve("mini")  # the folder of the bundled base. For other bases, take their folder or hub id.
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), aligned)
prompt = (
    "Write the slots of the utterance as slot: value, separated by ; and in order of appearance, "
    "or None if it has none.\n\nUtterance: Wecke mich um sechs.\nSlots:"
)
inputs = tokenizer(prompt, return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens=32, do_sample=False)
print("Answer:", tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
