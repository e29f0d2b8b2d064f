"""Published figures of the KVAE on the box world, under the keys of our results."""

from __future__ import annotations

PROBABILITIES = ("0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0")
COUNTS = ("1", "3", "5", "7", "9", "11", "13", "15")


def _series(prefix: str, names: tuple[str, ...], values: str) -> dict[str, float]:
    return dict(zip((f"{prefix}/{name}" for name in names), map(float, values.split()), strict=True))


# Fraccaro et al. 2017, fig. 3 (thesis fig. 6.3), read from the public curves' data.
PAPER = (
    _series("hamming/smooth/random", PROBABILITIES, ".0057 .0060 .0063 .0067 .0075 .0082 .0095 .0128 .0189 .0265")
    | _series("hamming/filter/random", PROBABILITIES, ".0079 .0078 .0083 .0089 .0102 .0117 .0124 .0158 .0214 .0266")
    | _series("hamming/smooth/consecutive", COUNTS, ".0061 .0078 .0099 .0121 .0148 .0173 .0200 .0227")
    | _series("hamming/filter/consecutive", COUNTS, ".0082 .0112 .0144 .0173 .0197 .0220 .0237 .0256")
)

# The paper's two baselines: LSTMs on the codes of an auto-encoder, and of a variational one.
AE_RNN = _series(
    "hamming/filter/random", PROBABILITIES, ".0066 .0069 .0076 .0079 .0096 .0112 .0133 .0172 .0220 .0272"
) | _series("hamming/filter/consecutive", COUNTS, ".0088 .0114 .0146 .0175 .0201 .0223 .0243 .0260")
VAE_RNN = _series(
    "hamming/filter/random", PROBABILITIES, ".0079 .0087 .0086 .0100 .0117 .0129 .0141 .0173 .0225 .0279"
) | _series("hamming/filter/consecutive", COUNTS, ".0088 .0121 .0151 .0181 .0207 .0230 .0252 .0269")

# One run of the authors' public code with a small budget: 1024 training and 320 test sequences with walls, 20 epochs.
PUBLIC_CODE = (
    _series("parity/hamming/smooth/consecutive", COUNTS, ".0070 .0097 .0137 .0176 .0228 .0275 .0305 .0351")
    | _series("parity/hamming/filter/consecutive", COUNTS, ".0124 .0187 .0246 .0287 .0312 .0335 .0350 .0365")
    | _series("parity/hamming/generate/consecutive", COUNTS, ".0123 .0190 .0246 .0288 .0312 .0332 .0355 .0365")
    | _series(
        "parity/hamming/smooth/random", PROBABILITIES, ".0077 .0079 .0085 .0092 .0101 .0108 .0136 .0183 .0272 .0371"
    )
    | _series(
        "parity/hamming/filter/random", PROBABILITIES, ".0120 .0123 .0131 .0141 .0163 .0182 .0202 .0245 .0309 .0371"
    )
    | _series(
        "parity/hamming/generate/random", PROBABILITIES, ".0379 .0350 .0377 .0367 .0361 .0365 .0373 .0367 .0369 .0370"
    )
    | {"parity/elbo_per_frame": -14.41}
)

REFERENCES = {"paper": PAPER, "ae-rnn": AE_RNN, "vae-rnn": VAE_RNN, "public-code": PUBLIC_CODE}
