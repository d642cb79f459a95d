"""Floor 3. One LightningModule per method; siblings import only ``base``."""
