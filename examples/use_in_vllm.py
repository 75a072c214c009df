"""Answer with a trained adapter in plain vLLM.

python examples/use_in_vllm.py
"""

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

import midalign
from midalign.bases import resolve


def main() -> None:
    """Train an adapter, serve it and answer one prompt."""
    recipe = midalign.load_recipe("mini", ["updates=5", "seeds=[1]", "output=example-adapters"])
    (aligned,) = midalign.train_recipe(recipe, arms=["aligned"])

    engine = LLM(resolve("mini"), enable_lora=True, max_lora_rank=recipe.lora.r)
    adapter = LoRARequest("aligned", 1, str(aligned))
    prompt = "Utterance: Wecke mich um sechs.\nSlots:"
    greedy = SamplingParams(temperature=0, max_tokens=32)
    (answer,) = engine.generate([prompt], greedy, use_tqdm=False, lora_request=adapter)
    print("Answer:", answer.outputs[0].text)


if __name__ == "__main__":  # vLLM starts processes that import this file
    main()
