def register_flop_formulas(): pass
