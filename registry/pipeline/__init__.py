"""The durable steps that carry a submission from intake to verdict."""
