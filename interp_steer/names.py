"""The only module that spells hook names.

`layer` is zero-based everywhere. `resid_post` of a layer is the residual stream as it leaves that
block, hence what the next block (or the final norm) reads. TransformerLens calls the point
`blocks.5.hook_resid_post`; on a `TransformerBridge` that name is an alias of `blocks.5.hook_out`.
"""


def resid_post(layer: int) -> str:
    """Name of the hook on the residual stream that leaves block `layer` (zero-based).

    Examples:
        >>> resid_post(5)
        'blocks.5.hook_resid_post'
    """
    if layer < 0:
        raise ValueError(f"layer must be zero-based and not negative, got {layer}")
    return f"blocks.{layer}.hook_resid_post"
