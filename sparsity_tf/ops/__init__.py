"""Operations on tensors that layers and callbacks share."""
