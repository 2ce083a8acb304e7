class Made:
    def __init__(self, of):
        self.of = of

    def __call__(self):
        return self.of
