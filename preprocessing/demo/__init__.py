"""A synthetic stand-in for the competition's photographs, rendered where there is no data, in Kaggle's own layout.

The pictures: ten behaviours, each driver with a body, clothes, cabin, light and camera of their own, in short video
sequences, so that they have the trap of the real ones: a random split of the frames leaks, a split by driver does not.
"""

from preprocessing.demo.dataset import DemoSettings, demo_counts, demo_root, ensure_demo, is_demo, render_demo

__all__ = ["DemoSettings", "demo_counts", "demo_root", "ensure_demo", "is_demo", "render_demo"]
