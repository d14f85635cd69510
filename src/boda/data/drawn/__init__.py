"""Pictures that Boda draws itself, with Korean questions and answers: data with no download."""
