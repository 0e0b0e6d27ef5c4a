"""A network of timm's registry with classes of one's own. It needs timm.

timm's data config names the size, the interpolation and the normalisation.

    stingy bundle pack timm:mobilenetv3_small_050 --weights pets.safetensors --labels cat,dog
"""

import timm
from safetensors.torch import save_file

network = timm.create_model("mobilenetv3_small_050", num_classes=2)
save_file(network.state_dict(), "pets.safetensors")
