"""Model-independent code: settings, files, processes, progress, and all access to tf_keras, TF-MOT and TF-Hub."""
