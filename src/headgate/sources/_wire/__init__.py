"""What topics of others hold: records in JSON and Avro, and what their schemas make of values."""
