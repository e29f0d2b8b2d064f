"""World models: a protocol, models that implement it, exact inference, training and evaluation.

    from reverie.world_models import KVAE
    model = KVAE.from_pretrained("kvae-bouncing-ball")
    posterior = model.smooth(frames, actions, mask=mask)

Bring your own model with `register("name", MyModel)`; the commands load it with `--import my_module`.
"""

from .ae_rnn import AERNN, AERNNConfig
from .base import Loss, WorldModel
from .batch import Batch, Spaces
from .code_rnn import CodeRNN, CodeRNNConfig
from .dmm import DMM, DMMConfig
from .dvbf import DVBF, DVBFConfig
from .gru import GRU, GRUConfig
from .gtm_sm import GTMSM, GTMSMConfig
from .kvae import KVAE
from .kvae_config import KVAEConfig
from .lgssm import LGSSM, LGSSMConfig
from .objects.air import AIR, AIRConfig
from .objects.apdr import APDR
from .objects.config import APDRConfig
from .rssm import RSSM, RSSMConfig
from .srnn import SRNN, SRNNConfig
from .state import State
from .storn import STORN, STORNConfig
from .vae import VAE, VAEConfig
from .vae_rnn import VAERNN, VAERNNConfig
from .vrnn import VRNN, VRNNConfig

MODELS: dict[str, type[WorldModel]] = {}


def register(name: str, model: type[WorldModel]) -> None:
    """Add a world model under `name`, so that training, checkpoints and the commands know it.

    Raises:
        TypeError: if `model` is not a subclass of `WorldModel`.
        ValueError: if another class already has that name.
    """
    if not (isinstance(model, type) and issubclass(model, WorldModel)):
        raise TypeError(f"register needs a subclass of WorldModel, found {model!r}")
    if MODELS.get(name, model) is not model:
        raise ValueError(f"the name {name!r} is taken by {MODELS[name].__module__}.{MODELS[name].__qualname__}")
    MODELS[name] = model
    model.name = name


register("gtm-sm", GTMSM)
register("kvae", KVAE)
register("lgssm", LGSSM)
register("srnn", SRNN)
register("vrnn", VRNN)
register("storn", STORN)
register("vae-rnn", VAERNN)
register("dmm", DMM)
register("dvbf", DVBF)
register("rssm", RSSM)
register("vae", VAE)
register("code-rnn", CodeRNN)
register("ae-rnn", AERNN)
register("gru", GRU)
register("air", AIR)
register("apdr", APDR)

__all__ = [
    "AERNN",
    "AIR",
    "APDR",
    "DMM",
    "DVBF",
    "GRU",
    "GTMSM",
    "KVAE",
    "LGSSM",
    "MODELS",
    "RSSM",
    "SRNN",
    "STORN",
    "VAE",
    "VAERNN",
    "VRNN",
    "AERNNConfig",
    "AIRConfig",
    "APDRConfig",
    "Batch",
    "CodeRNN",
    "CodeRNNConfig",
    "DMMConfig",
    "DVBFConfig",
    "GRUConfig",
    "GTMSMConfig",
    "KVAEConfig",
    "LGSSMConfig",
    "Loss",
    "RSSMConfig",
    "SRNNConfig",
    "STORNConfig",
    "Spaces",
    "State",
    "VAEConfig",
    "VAERNNConfig",
    "VRNNConfig",
    "WorldModel",
    "register",
]
