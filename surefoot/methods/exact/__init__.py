"""Methods with guarantees: finite, linear and continuous-time models, bandits, particles. Plain functions of arrays in float64."""
