"""One row a system: slug, paper, arXiv id (with the version where one was followed), what it learns from, where it lives.

`surefoot methods` prints it, `find` looks a slug up, `require_ready` refuses planned systems; it imports nothing heavy. `room` of
a planned system is where its module will live. Adding a method ends here: set `status` to "ready" (see CONTRIBUTING.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from surefoot.errors import ConfigError, UnknownNameError

Status = Literal["ready", "planned"]
Kind = Literal["learner", "wrapper", "sampler", "certificate", "diagnosis", "estimator", "explorer"]

GROUPS = {
    "logged data": "a fixed log of transitions, no environment",
    "logged data + environment": "a log first, then interaction",
    "demonstrations": "recordings of somebody who can do it, no rewards needed",
    "environment": "a simulator or a real system that can be stepped",
    "preferences": "which of two is better",
    "scored text": "a language model and a reward for its answers",
    "bandit log": "one decision, one outcome, logged",
    "images": "pictures, with labels, scores or neither",
    "time series": "observed or simulated paths",
}
"""What a system learns from (the first of a row's `learns_from`), in the order in which tables show it."""


@dataclass(frozen=True)
class Row:
    """One system. `name` is what papers call it, `slug` what commands and files call it."""

    slug: str
    name: str
    title: str
    authors: str
    year: int
    venue: str
    arxiv: str  # "2405.19909v3", or without a version where none was fixed; "" for papers that are not on arXiv
    learns_from: tuple[str, ...]
    kind: Kind
    room: str  # module that holds it
    fleet: bool  # True: several seeds train as one batched computation; False: one seed at a time
    status: Status = "planned"
    claim: bool = True  # False for the baselines, which take part in the claims of others

    @property
    def group(self) -> str:
        return self.learns_from[0]

    @property
    def module_name(self) -> str:
        """The slug as a Python name, which claims and tests are filed under."""
        return self.slug.replace("-", "_")

    @property
    def url(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""


LOG, HYBRID, DEMOS, ENV, PREFS, TEXT, BANDIT, IMAGES, PATHS = GROUPS

# fmt: off
ROWS: tuple[Row, ...] = (
    # --- logged data --------------------------------------------------------------------------------------------------
    Row("a2pr", "A2PR", "Adaptive Advantage-Guided Policy Regularization for Offline Reinforcement Learning",
        "Liu et al.", 2024, "ICML", "2405.19909v3", (LOG,), "learner", "surefoot.methods.offline.a2pr", True, "ready"),
    Row("prdc", "PRDC", "Policy Regularization with Dataset Constraint for Offline Reinforcement Learning",
        "Ran et al.", 2023, "ICML", "2306.06569", (LOG,), "learner", "surefoot.methods.offline.prdc", True, "ready"),
    Row("trajectory-weighting", "Trajectory weighting (RW/AW)",
        "Harnessing Mixed Offline Reinforcement Learning Datasets via Trajectory Weighting",
        "Hong et al.", 2023, "ICLR", "2306.13085", (LOG,), "sampler", "surefoot.data.weighting", True, "ready"),
    Row("odice", "O-DICE", "ODICE: Revealing the Mystery of Distribution Correction Estimation via Orthogonal-gradient Update",
        "Mao et al.", 2024, "ICLR", "2402.00348", (LOG, DEMOS), "learner", "surefoot.methods.offline.odice", True),
    Row("dichotomy-of-control", "DoC", "Dichotomy of Control: Separating What You Can Control from What You Cannot",
        "Yang et al.", 2023, "ICLR", "2210.13435", (LOG,), "learner", "surefoot.methods.offline.dichotomy_of_control", True),
    Row("policy-guided-diffusion", "PGD", "Policy-Guided Diffusion",
        "Jackson et al.", 2024, "RLC", "2404.06356", (LOG,), "sampler", "surefoot.methods.offline.policy_guided_diffusion", False),
    Row("r2pvi", "R2PVI", "Robust Offline Reinforcement Learning with Linearly Structured f-Divergence Regularization",
        "Tang et al.", 2025, "ICML", "2411.18612", (LOG,), "learner", "surefoot.methods.exact.r2pvi", True, "ready"),
    Row("digi-q", "Digi-Q", "Digi-Q: Learning Q-Value Functions for Training Device-Control Agents",
        "Bai et al.", 2025, "ICLR", "2502.15760", (LOG, TEXT), "learner", "surefoot.methods.language.digi_q", False),
    Row("bc", "BC", "Behaviour cloning: Efficient Training of Artificial Neural Networks for Autonomous Navigation",
        "Pomerleau", 1991, "Neural Computation", "", (LOG, DEMOS), "learner", "surefoot.methods.offline.bc", True, "ready", False),
    Row("td3_bc", "TD3+BC", "A Minimalist Approach to Offline Reinforcement Learning",
        "Fujimoto and Gu", 2021, "NeurIPS", "2106.06860", (LOG,), "learner", "surefoot.methods.offline.td3_bc", True, "ready", False),
    Row("iql", "IQL", "Offline Reinforcement Learning with Implicit Q-Learning",
        "Kostrikov et al.", 2022, "ICLR", "2110.06169", (LOG,), "learner", "surefoot.methods.offline.iql", True, "ready", False),
    Row("cql", "CQL", "Conservative Q-Learning for Offline Reinforcement Learning",
        "Kumar et al.", 2020, "NeurIPS", "2006.04779", (LOG,), "learner", "surefoot.methods.offline.cql", True, "ready", False),
    # --- logged data, then an environment -------------------------------------------------------------------------------
    Row("famo2o", "FamO2O", "Train Once, Get a Family: State-Adaptive Balances for Offline-to-Online Reinforcement Learning",
        "Wang et al.", 2023, "NeurIPS", "2310.17966", (HYBRID,), "learner", "surefoot.methods.hybrid.famo2o", True),
    Row("ro2o", "RO2O", "Towards Robust Offline-to-Online Reinforcement Learning via Uncertainty and Smoothness",
        "Wen et al.", 2024, "JAIR", "2309.16973v2", (HYBRID,), "learner", "surefoot.methods.hybrid.ro2o", True),
    Row("hybrid-npg", "HAC/HNPG", "Offline Data Enhanced On-Policy Policy Gradient with Provable Guarantees",
        "Zhou et al.", 2024, "ICLR", "2311.08384", (HYBRID,), "learner", "surefoot.methods.hybrid.hybrid_npg", True),
    Row("serl", "SERL/RLPD", "SERL: A Software Suite for Sample-Efficient Robotic Reinforcement Learning",
        "Luo et al.", 2024, "ICRA", "2401.16013", (HYBRID, DEMOS), "learner", "surefoot.methods.hybrid.serl", True),
    Row("v-gps", "V-GPS", "Steering Your Generalists: Improving Robotic Foundation Models via Value Guidance",
        "Nakamoto et al.", 2024, "CoRL", "2410.13816", (DEMOS, LOG), "wrapper", "surefoot.steering.v_gps", False),
    # --- demonstrations ------------------------------------------------------------------------------------------------
    Row("beso", "BESO", "Goal-Conditioned Imitation Learning using Score-based Diffusion Policies",
        "Reuss et al.", 2023, "RSS", "2304.02532", (DEMOS,), "learner", "surefoot.methods.imitation.beso", False),
    Row("carp", "CARP", "CARP: Visuomotor Policy Learning via Coarse-to-Fine Autoregressive Prediction",
        "Gong et al.", 2025, "ICCV", "2412.06782", (DEMOS,), "learner", "surefoot.methods.imitation.carp", False),
    Row("mode", "MoDE", "Efficient Diffusion Transformer Policies with Mixture of Expert Denoisers for Multitask Learning",
        "Reuss et al.", 2025, "ICLR", "2412.12953", (DEMOS,), "learner", "surefoot.methods.imitation.mode", False),
    Row("pad", "PAD", "Prediction with Action: Visual Policy Learning via Joint Denoising Process",
        "Guo et al.", 2024, "NeurIPS", "2411.18179", (DEMOS, IMAGES), "learner", "surefoot.methods.imitation.pad", False),
    Row("glide", "GLIDE", "Planning-Guided Diffusion Policy Learning for Generalizable Contact-Rich Bimanual Manipulation",
        "Li et al.", 2024, "preprint", "2412.02676", (DEMOS, ENV), "learner", "surefoot.methods.imitation.glide", False),
    Row("resip", "ResiP", "From Imitation to Refinement: Residual RL for Precise Visual Assembly",
        "Ankile et al.", 2025, "ICRA", "2407.16677", (DEMOS, ENV), "learner", "surefoot.methods.imitation.resip", False),
    Row("demonstration-regularized", "DRRL", "Demonstration-Regularized RL",
        "Tiapkin et al.", 2024, "ICLR", "2310.17303", (DEMOS, ENV, PREFS), "learner",
        "surefoot.methods.exact.demonstration_regularized", True, "ready"),
    # --- an environment ------------------------------------------------------------------------------------------------
    Row("policy-smoothing", "Policy smoothing", "Policy Smoothing for Provably Robust Reinforcement Learning",
        "Kumar et al.", 2022, "ICLR", "2106.11420v3", (ENV,), "certificate", "surefoot.steering.smoothed", True, "ready"),
    Row("pmoe", "PMOE", "Probabilistic Mixture-of-Experts for Efficient Deep Reinforcement Learning",
        "Ren et al.", 2021, "preprint", "2104.09122", (ENV,), "learner", "surefoot.methods.online.pmoe", True),
    Row("props", "PROPS", "On-Policy Policy Gradient Reinforcement Learning Without On-Policy Sampling",
        "Corrado and Hanna", 2023, "preprint", "2311.08290", (ENV,), "sampler", "surefoot.methods.online.props", True),
    Row("n-harpg", "N-HARPG", "Stochastic Policy Gradient Methods: Improved Sample Complexity for Fisher-non-degenerate Policies",
        "Fatkhullin et al.", 2023, "ICML", "2302.01734", (ENV,), "learner", "surefoot.methods.online.n_harpg", True),
    Row("protected", "PROTECTED", "Beyond Worst-case Attacks: Robust RL with Adaptive Defense via Non-dominated Policies",
        "Liu et al.", 2024, "ICLR", "2402.12673", (ENV,), "learner", "surefoot.methods.online.protected", True, "ready"),
    Row("iwocs", "IWOCS", "Solving robust MDPs as a sequence of static RL problems",
        "Zouitine et al.", 2024, "preprint", "2410.06212", (ENV,), "learner", "surefoot.methods.online.iwocs", True, "ready"),
    Row("h-infinity-locomotion", "H-infinity locomotion", "Learning H-Infinity Locomotion Control",
        "Long et al.", 2024, "CoRL", "2404.14405", (ENV,), "learner", "surefoot.methods.online.h_infinity_locomotion", True),
    Row("online-cbf", "Online CBF", "Online Control Barrier Functions for Decentralized Multi-Agent Navigation",
        "Gao et al.", 2023, "MRS", "2303.04313", (ENV,), "learner", "surefoot.methods.online.online_cbf", False),
    Row("fishery-control", "Fishery control", "Pretty darn good control: when are approximate solutions better than approximate models",
        "Montealegre-Mora et al.", 2023, "Bull. Math. Biol.", "2308.13654", (ENV,), "learner",
        "surefoot.methods.online.fishery_control", True),
    Row("adversarial-mdp", "Refined linear-Q", "Refined Regret for Adversarial MDPs with Linear Function Approximation",
        "Dai et al.", 2023, "ICML", "2301.12942", (ENV,), "learner", "surefoot.methods.exact.adversarial_mdp", True, "ready"),
    Row("diagnosing", "RA-NLD", "Understanding and Diagnosing Deep Reinforcement Learning",
        "Korkmaz", 2024, "ICML", "2406.16979", (ENV,), "diagnosis", "surefoot.evaluation.diagnosing", False, "ready"),
    Row("dqn", "DQN", "Human-level control through deep reinforcement learning",
        "Mnih et al.", 2015, "Nature", "1312.5602", (ENV,), "learner", "surefoot.methods.online.dqn", True, "ready", False),
    Row("sac", "SAC", "Soft Actor-Critic Algorithms and Applications",
        "Haarnoja et al.", 2018, "preprint", "1812.05905", (ENV,), "learner", "surefoot.methods.online.sac", True, "ready", False),
    Row("ppo", "PPO", "Proximal Policy Optimization Algorithms",
        "Schulman et al.", 2017, "preprint", "1707.06347", (ENV,), "learner", "surefoot.methods.online.ppo", True, "ready", False),
    Row("sa_dqn", "SA-DQN", "Robust Deep Reinforcement Learning against Adversarial Perturbations on State Observations",
        "Zhang et al.", 2020, "NeurIPS", "2003.08938", (ENV,), "learner", "surefoot.methods.online.sa_dqn", True, "ready", False),
    Row("sa_ppo", "SA-PPO", "Robust Deep Reinforcement Learning against Adversarial Perturbations on State Observations",
        "Zhang et al.", 2020, "NeurIPS", "2003.08938", (ENV,), "learner", "surefoot.methods.online.sa_ppo", True, "ready", False),
    # --- preferences ---------------------------------------------------------------------------------------------------
    Row("rdpo", "rDPO", "Provably Robust DPO: Aligning Language Models with Noisy Feedback",
        "Chowdhury et al.", 2024, "ICML", "2403.00409", (PREFS, TEXT), "learner", "surefoot.methods.language.rdpo", False, "ready"),
    Row("rpo", "RPO", "Provably Mitigating Overoptimization in RLHF: Your SFT Loss is Implicitly an Adversarial Regularizer",
        "Liu et al.", 2024, "NeurIPS", "2405.16436v3", (PREFS, TEXT), "learner", "surefoot.methods.language.rpo", False, "ready"),
    Row("inpo", "INPO", "Iterative Nash Policy Optimization: Aligning LLMs with General Preferences via No-Regret Learning",
        "Zhang et al.", 2025, "ICLR", "2407.00617", (PREFS, TEXT), "learner", "surefoot.methods.language.inpo", False, "ready"),
    Row("on-policy-preferences", "On-policy preferences",
        "Preference Fine-Tuning of LLMs Should Leverage Suboptimal, On-Policy Data",
        "Tajwar et al.", 2024, "ICML", "2404.14367", (PREFS, TEXT), "learner", "surefoot.methods.language.on_policy_preferences",
        False, "ready"),
    Row("parl", "PARL", "PARL: A Unified Framework for Policy Alignment in Reinforcement Learning from Human Feedback",
        "Chakraborty et al.", 2024, "ICLR", "2308.02585", (PREFS, ENV), "learner", "surefoot.methods.online.parl", True),
    Row("d3po", "D3PO", "Using Human Feedback to Fine-tune Diffusion Models without Any Reward Model",
        "Yang et al.", 2024, "CVPR", "2311.13231", (PREFS, IMAGES), "learner", "surefoot.methods.image.d3po", False),
    Row("seppo", "SePPO", "SePPO: Semi-Policy Preference Optimization for Diffusion Alignment",
        "Zhang et al.", 2024, "preprint", "2410.05255v1", (PREFS, IMAGES), "learner", "surefoot.methods.image.seppo", False),
    # --- scored text ---------------------------------------------------------------------------------------------------
    Row("copg", "CoPG", "Contrastive Policy Gradient: Aligning LLMs on sequence-level scores in a supervised-friendly fashion",
        "Flet-Berliac et al.", 2024, "EMNLP", "2406.19185", (TEXT,), "learner", "surefoot.methods.language.copg", False, "ready"),
    Row("dr-po", "DR-PO", "Dataset Reset Policy Optimization for RLHF",
        "Chang et al.", 2024, "preprint", "2404.08495", (TEXT, PREFS), "learner", "surefoot.methods.language.dr_po", False, "ready"),
    Row("pf-ppo", "PF-PPO", "Policy Filtration in RLHF to Fine-Tune LLM for Code Generation",
        "Shen and Zhang", 2025, "ICML", "2409.06957", (TEXT,), "learner", "surefoot.methods.language.pf_ppo", False, "ready"),
    # --- bandit logs ---------------------------------------------------------------------------------------------------
    Row("adyen-bandits", "Adyen bandits",
        "Contextual Bandits in Payment Processing: Non-uniform Exploration and Supervised Learning at Adyen",
        "Vangara and Egg", 2024, "OARS", "2412.00569v2", (BANDIT,), "explorer", "surefoot.methods.exact.adyen_bandits", False, "ready"),
    # --- images --------------------------------------------------------------------------------------------------------
    Row("lvm-rs", "LVM-RS", "The Lipschitz-Variance-Margin Tradeoff for Enhanced Randomized Smoothing",
        "Delattre et al.", 2024, "ICLR", "2309.16883", (IMAGES, ENV), "certificate", "surefoot.evaluation.lvm_rs", False, "ready"),
    Row("rrcm", "rRCM", "Robust Representation Consistency Model via Contrastive Denoising",
        "Lei et al.", 2025, "ICLR", "2501.13094", (IMAGES,), "learner", "surefoot.methods.vision.rrcm", False, "ready"),
    Row("noise-mask", "Noise-Mask", "Policy Gradient-Driven Noise Mask",
        "Yavuz and Yang", 2024, "Springer", "2406.14568", (IMAGES,), "learner", "surefoot.methods.vision.noise_mask", False),
    Row("find", "FIND", "FIND: Fine-tuning Initial Noise Distribution with Policy Optimization for Diffusion Models",
        "Chen et al.", 2024, "ACM MM", "2407.19453", (IMAGES,), "learner", "surefoot.methods.image.find", False),
    # --- time series ---------------------------------------------------------------------------------------------------
    Row("martingale-evaluation", "Martingale evaluation",
        "Policy Evaluation and Temporal-Difference Learning in Continuous Time and Space: A Martingale Approach",
        "Jia and Zhou", 2022, "JMLR", "2108.06655", (PATHS,), "estimator", "surefoot.methods.exact.martingale_evaluation", True, "ready"),
    Row("paris-particle-gibbs", "PPG", "State and parameter learning with PaRIS particle Gibbs",
        "Cardoso et al.", 2023, "ICML", "2301.00900", (PATHS,), "estimator", "surefoot.methods.exact.paris_particle_gibbs", True, "ready"),
)
# fmt: on

_BY_SLUG = {row.slug: row for row in ROWS}


def find(slug: str) -> Row:
    """The row of a system; raises UnknownNameError with the nearest slugs."""
    if slug not in _BY_SLUG:
        raise UnknownNameError("method", slug, _BY_SLUG)
    return _BY_SLUG[slug]


def require_ready(row: Row) -> Row:
    """The row itself; raises ConfigError if the system is planned."""
    if row.status == "planned":
        known = ", ".join(r.slug for r in ROWS if r.status == "ready")
        raise ConfigError(f"{row.slug} is planned, not yet implemented; ready: {known}.")
    return row
