"""What is done to training images before a network sees them, as pure functions of (seed, step, index in the data set).

settings        which operators, how strong                                                  no torch
draws           numbers from a key
resized_crop    a part of random area and aspect ratio: the part first, its pixels later
operators       colour jitter, RandAugment, erasing: what is drawn, then what is done
images          all of that for one decoded image of any size, or for each of a batch
shifting        shift and crop-flip of a whole batch at once
mixing          mixup and cutmix of a whole batch
"""
