"""A Hugging Face folder of an image classifier. It needs transformers.

The folder names the labels and the preprocessing.

    stingy bundle pack hf_vit
"""

from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

config = ViTConfig(
    num_hidden_layers=2,
    image_size=64,
    id2label={0: "cat", 1: "dog"},
    label2id={"cat": 0, "dog": 1},
)
ViTForImageClassification(config).save_pretrained("hf_vit")
ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained("hf_vit")
