"""How anything is trained: settings, loss and optimizer, schedules, rates, freezing, augmentation."""
