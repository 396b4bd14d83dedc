"""How pixels of small data sets (CIFAR, MNIST) are normalized before a network sees them.

Sources: the CIFAR recipes of sparse training (Dettmers & Zettlemoyer, arXiv 1907.04840; Mostafa & Wang,
arXiv 1902.05967; Evci et al., arXiv 1911.11134), SparseVD's mean image (Molchanov et al., ICML 2017). `zca` has the
whitening.
"""

import numpy as np

NORMALIZATIONS = ("none", "mean_image", "standardize", "standardize_dsr", "per_image", "zca")

# Mean and standard deviation of pixels / 255, by channel.
_SPARSE_MOMENTUM_CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_DSR_CIFAR = tuple(np.array([125.3, 123.0, 113.9]) / 255), tuple(np.array([63.0, 62.1, 66.7]) / 255)


def mean_image(images):
    """The mean of `images / 255` at each pixel: float32, of the shape of one image."""
    return (images.mean(axis=0, dtype=np.float64) / 255.0).astype(np.float32)


def channel_statistics(images):
    """Mean and standard deviation of each channel of pixels / 255: two float64 arrays `(channels,)`."""
    channels = images if images.ndim == 4 else images[..., np.newaxis]
    mean = channels.mean(axis=(0, 1, 2), dtype=np.float64)
    # The squares are summed 1,000 images at a time, because a float64 copy of CIFAR would take 1.2 GB.
    square = sum(
        (channels[k : k + 1000].astype(np.float64) ** 2).sum(axis=(0, 1, 2)) for k in range(0, len(channels), 1000)
    ) / (channels.size / channels.shape[-1])
    return mean / 255, np.sqrt(square - mean**2) / 255


def normalizer(data, train, normalize):
    """Makes the function that normalizes a batch of images with channels, float32 from 0 to 255, for the network.

    Args:
        data: The `ImageData`.
        train: The training images that are not held out, on which statistics are measured.
        normalize: One of `NORMALIZATIONS` but "zca".
    """
    if normalize == "mean_image":
        mean = mean_image(train).reshape(data.image_shape)
        return lambda images: images / 255.0 - mean
    if normalize == "per_image":
        return _standardize_each
    if normalize == "none":
        return lambda images: images / 255.0
    if normalize == "standardize_dsr":
        mean, stddev = _DSR_CIFAR
    elif data.name == "cifar10":
        mean, stddev = _SPARSE_MOMENTUM_CIFAR10
    elif data.name == "tiny_imagenet":
        mean, stddev = _IMAGENET
    else:
        mean, stddev = channel_statistics(train)
    # The means are spread over all pixels: numpy's broadcast over three channels is slower than the arithmetic itself.
    mean, stddev = (np.full(data.image_shape, values, np.float32) for values in (mean, stddev))

    def standardize(images):
        images = images / 255.0
        images -= mean  # in place, to save memory
        images /= stddev
        return images

    return standardize


def _standardize_each(images):
    """Subtracts each image's mean and divides by its standard deviation, or by 1 / sqrt(its size) if that is larger."""
    mean, deviation = (take(images, axis=(1, 2, 3), keepdims=True) for take in (np.mean, np.std))
    return (images - mean) / np.maximum(deviation, np.float32(1.0 / np.sqrt(np.prod(images.shape[1:]))))
