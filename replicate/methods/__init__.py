"""The five pretraining methods, one file each, every file a loss in the order of its equations.

A loss is a function of tensors: `loss(z1, z2, **hyperparameters)` for the joint-embedding methods, with z1 and z2 the
(N, d) embeddings of the two views of N images; `dino.loss(student, teacher, centre, **hyperparameters)` for DINO.
It returns a dict of scalar tensors, "loss" first and attached to the graph, then its parts, detached, for the log.

float32 or float64 only: call it outside autocast on `.float()` embeddings, because bfloat16 has eight bits for the
covariances and log-sum-exps that these losses are made of. NaN and infinity pass through to the loss and are not
checked for here (it would cost a synchronisation a step): the training loop looks at the loss.
"""

from replicate.methods import dino, simclr, vicreg, vicreg_ctr, vicreg_exp

METHODS = {
    "SimCLR": simclr,
    "VICReg": vicreg,
    "VICReg-exp": vicreg_exp,
    "VICReg-ctr": vicreg_ctr,
    "DINO": dino,
}
