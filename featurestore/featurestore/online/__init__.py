"""The online state of entities: its layout, its one writer and its one reader."""
