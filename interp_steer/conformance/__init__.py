"""Laws that every wrapped model obeys: tokens, residuals, hooks, generation, steering, traces.

    from interp_steer.conformance import LAWS, Subject

    subject = Subject(lm=HookedLM(my_model))

    @pytest.mark.parametrize("law", LAWS, ids=str)
    def test_my_model(law):
        if reason := law.inapplicable(subject):
            pytest.skip(reason)
        law.check(subject)

Whoever wraps another model class runs the same laws that hold `TransformerBridge` and
`HookedTransformer`. They compare with an independent forward pass of single, unpadded sequences
(`Subject.reference`). That they hold says that this library calls the model rightly; it says
nothing of what is read or steered with it. Nothing here needs pytest.
"""

from interp_steer.conformance.forward_laws import FORWARD_LAWS
from interp_steer.conformance.generation_laws import GENERATION_LAWS
from interp_steer.conformance.steering_laws import STEERING_LAWS
from interp_steer.conformance.subject import ConformanceError, Law, ReferencePass, Subject

__all__ = ["LAWS", "ConformanceError", "Law", "ReferencePass", "Subject"]

LAWS: tuple[Law, ...] = (*FORWARD_LAWS, *GENERATION_LAWS, *STEERING_LAWS)
"""Every law, the fundamental ones first."""
