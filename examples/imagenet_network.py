"""A network of torchvision's registry, with its 1000 classes of ImageNet-1k.

On a machine with a network, `weights="DEFAULT"` gives the trained weights. torchvision names the
labels, the size and the normalisation.

    stingy bundle pack torchvision:mobilenet_v3_small --weights mobilenet.safetensors
"""

from safetensors.torch import save_file
from torchvision.models import mobilenet_v3_small

network = mobilenet_v3_small(weights=None)
save_file(network.state_dict(), "mobilenet.safetensors")
