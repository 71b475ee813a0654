"""Configs of language models in the Hugging Face layout: config.json to the keywords of a network, and back."""

from ssl_keras.data.tokenizer import PADS
from ssl_keras.encoders.text_layouts import FAMILIES
from ssl_keras.networks.llama_block import mlp_width

MAX_NUMBER = 1 << 24
MAX_UNUSED = 1 / 8  # of the model's vocabulary, beyond the tokenizer's; some models round their vocabulary up
# Options that no graph here has.
UNSUPPORTED = ("quantization_config", "sliding_window", "num_local_experts", "num_experts", "is_encoder_decoder")
ROTARY_KINDS = {  # the numbers of each kind of scaling, in the order of `attention.rotary_rates`
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
ROLES = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
PADDING = {"bert": 0, "roberta": 1, "distilbert": 0}  # by default


def keywords_of(config):
    """Returns the keywords of `networks.transformer.transformer` for a config.

    Raises:
        ValueError: the family is not known, an option is not supported, or a number is missing or out of range.
    """
    name = config["model_type"]
    if name not in FAMILIES:
        raise ValueError(f"Expected the model_type {', '.join(FAMILIES)}. Received: {name!r}")
    family = FAMILIES[name]
    for option in UNSUPPORTED:
        if config.get(option):
            raise ValueError(f"Expected a {name} model without {option}. Received: {config[option]!r}")
    for option, value in family.required.items():
        if config.get(option, value) != value:
            raise ValueError(f"Expected a {name} model with {option} = {value!r}. Received: {config[option]!r}")
    numbers = {ours: config.get(theirs) for ours, theirs in family.numbers.items()}
    if name in ("gpt2", "bert") and not numbers["hidden"]:
        del numbers["hidden"]  # the network's default is theirs
    if name == "llama":
        numbers["kv_heads"] = config.get("num_key_value_heads") or numbers["heads"]
    names = family.numbers | {"kv_heads": "num_key_value_heads"}
    wrong = [names[ours] for ours, value in numbers.items() if type(value) is not int or not 1 <= value <= MAX_NUMBER]
    if wrong:
        raise ValueError(f"Expected integers of 1 to {MAX_NUMBER} for {', '.join(wrong)}.")
    option, epsilon = family.epsilon[0], config.get(*family.epsilon)
    if type(epsilon) not in (int, float) or not abs(epsilon) < 1e300:
        raise ValueError(f"Expected a number for {option}. Received: {epsilon!r}")
    if name == "roberta":
        numbers["context"] = _context(config, numbers["context"])
    rotary = _rotary(config, numbers["width"] // numbers["heads"]) if name == "llama" else {}
    return family.keywords | numbers | rotary | {"epsilon": float(epsilon)}


def padding_of(config):
    """Returns the id of the padding token, on which RoBERTa's positions depend. Raises ValueError for a wrong one."""
    default, padding = PADDING.get(config["model_type"], 0), config.get("pad_token_id")
    padding = default if padding is None else padding
    if type(padding) is not int or not 0 <= padding <= MAX_NUMBER:
        raise ValueError(f"Expected an integer of 0 to {MAX_NUMBER} for pad_token_id. Received: {padding!r}")
    return padding


def _context(config, places):
    context = places - padding_of(config) - 1
    if context < 1:
        raise ValueError(
            f"Expected max_position_embeddings of more than pad_token_id + 1, {places - context}. Received: {places}"
        )
    return context


def _rotary(config, features):
    """Returns the keywords of the rotary positions for a config of `llama`; its heads have `features` each."""
    if config.get("head_dim", features) not in (None, features):
        raise ValueError(f"Expected head_dim = {features}, hidden_size / heads. Received: {config['head_dim']!r}")
    # Since release 5, `transformers` writes rope_parameters; it still prefers rope_scaling where there is one.
    option = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    asked = config.get(option) or {}
    if not isinstance(asked, dict):
        raise ValueError(f"Expected a dictionary for {option}. Received: {asked!r}")
    kind = asked.get("rope_type") or asked.get("type") or "default"
    if not isinstance(kind, str) or kind not in ROTARY_KINDS:
        raise ValueError(f"Expected {option} of the kind {', '.join(ROTARY_KINDS)}. Received: {kind!r}")
    if asked.get("partial_rotary_factor", config.get("partial_rotary_factor")) not in (None, 1):
        raise ValueError(f"Expected a llama model without partial_rotary_factor. Received: {asked or config!r}")
    numbers = {"rope_theta": asked.get("rope_theta", config.get("rope_theta", 1e4))}
    numbers |= {name: asked.get(name) for name in ROTARY_KINDS[kind]}
    for name, value in numbers.items():
        if type(value) not in (int, float) or not 0 < value < 1e300:
            raise ValueError(f"Expected a positive number for {name} of {option}. Received: {value!r}")
    base, *scaling = map(float, numbers.values())
    return {"rotary_base": base, "rotary_scaling": tuple(scaling)}


def check_tokenizer(config, tokenizer):
    """Raises ValueError if a tokenizer is not that of a config's model.

    Its vocabulary must fit the model's, and each id that the config names must be that of a special token.
    """
    size = config["vocab_size"]
    if tokenizer.vocabulary > size:
        raise ValueError(
            f"The tokenizer has {tokenizer.vocabulary} tokens, but the model only {size}. Expected the tokenizer of "
            "this model."
        )
    if size - tokenizer.vocabulary > MAX_UNUSED * size:
        raise ValueError(
            f"The tokenizer has only {tokenizer.vocabulary} tokens, but the model {size}. Expected the tokenizer of "
            "this model."
        )
    special = {index: token for token, index in tokenizer.special.items()}
    for role in ROLES:
        ids = config.get(role)
        for index in ids if isinstance(ids, list) else [] if ids is None else [ids]:
            if type(index) is not int or index not in special:
                token = tokenizer.backend.id_to_token(index) if type(index) is int and 0 <= index < size else None
                raise ValueError(
                    f"{role} is {index!r} in config.json, which is {token!r} in the tokenizer and not a special "
                    "token. Expected the tokenizer of this model."
                )
    padding = next((tokenizer.special[name] for name in PADS if name in tokenizer.special), None)
    if config["model_type"] in PADDING and padding not in (None, padding_of(config)):
        raise ValueError(
            f"pad_token_id is {padding_of(config)} in config.json, but {padding} in the tokenizer. Expected the "
            "tokenizer of this model."
        )


def family_for(keywords):
    """Returns the name of the family that computes the same as a network with these keywords.

    Raises:
        ValueError: there is none.
    """
    names = [
        name
        for name, family in FAMILIES.items()
        if all(keywords[key] == value for key, value in family.keywords.items())
        and (family.epsilon[0] or keywords["epsilon"] == family.epsilon[1])
    ]
    if not names:
        given = {key: keywords[key] for key in ("architecture", "causal", "segments", "epsilon")}
        raise ValueError(
            "Expected the architecture gpt2, llama (both causal) or bert for the Hugging Face layout. Received: "
            f"{given}. Pretrain with --architecture gpt2 or llama (causal_lm), or bert (masked_lm)."
        )
    return names[0]


def config_of(name, keywords, tokenizer, head, padding):
    """Returns the config.json of a network with these keywords, of the family `name`."""
    family = FAMILIES[name]
    config = {"model_type": name, "architectures": [family.architectures[0 if head else 1]]}
    keywords = keywords | {"hidden": keywords["hidden"] or mlp_width(keywords["architecture"], keywords["width"])}
    config |= {theirs: keywords[ours] for ours, theirs in family.numbers.items()} | family.required
    if family.epsilon[0]:
        config[family.epsilon[0]] = keywords["epsilon"]
    if name in ("gpt2", "llama"):
        end = tokenizer.end if tokenizer.end >= 0 else None
        config |= {"bos_token_id": end if tokenizer.begin < 0 else tokenizer.begin, "eos_token_id": end}
    else:
        config["pad_token_id"] = padding
    if name == "roberta":
        config["max_position_embeddings"] += padding + 1
        config |= {"bos_token_id": tokenizer.special.get("<s>"), "eos_token_id": tokenizer.special.get("</s>")}
    if name == "llama":
        config |= {
            "num_key_value_heads": keywords["kv_heads"] or keywords["heads"],
            "tie_word_embeddings": head is None,
            "rope_theta": keywords["rotary_base"],
            "rope_scaling": _scaling(keywords["rotary_scaling"]),
        }
    return config


def _scaling(scaling):
    """Returns the entry rope_scaling of a config."""
    if not scaling:
        return None
    kind = next(kind for kind, names in ROTARY_KINDS.items() if len(names) == len(scaling))
    numbers = dict(zip(ROTARY_KINDS[kind], scaling))
    if kind == "llama3":
        numbers["original_max_position_embeddings"] = int(numbers["original_max_position_embeddings"])
    return {"rope_type": kind, **numbers}
