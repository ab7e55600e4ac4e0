"""Chapter 12 and `make scale`: does it carry over to a real net and larger images?

images.py and downloads.py: the data. resnet.py: the nets. wide.py: many of them
in training. experiments.py: what is done to them. findings.py: the table of
conditions. results.py: what `make scale` stored.
"""
