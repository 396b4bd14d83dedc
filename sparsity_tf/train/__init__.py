"""Training binaries: thin. Flags -> data set + model + callbacks + fit; no algorithm lives here."""
