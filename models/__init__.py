"""The zoo: one short file per architecture, over the engine in models/finetuning."""
