"""What knows no model: settings, files, processes, progress, and the one door to tf_keras, TF-MOT and TF-Hub."""
