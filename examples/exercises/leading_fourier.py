"""A layer that returns the leading half of the Fourier coefficients of the data."""

import torch

import pylayers


def main():
    t = torch.arange(16) / 16
    signal = 3 * torch.cos(2 * torch.pi * 2 * t) + torch.sin(2 * torch.pi * 5 * t)
    coefficients = pylayers.LeadingFourier()(signal)
    print("coefficients:", len(coefficients), "of", len(signal))
    print("as by torch.fft:", torch.allclose(coefficients, torch.fft.fft(signal)[: len(coefficients)], atol=1e-5))
    print("the frequencies in the signal:", (coefficients.abs() > 1).nonzero().flatten().tolist())
    print("Answer: LeadingFourier(); of real data the other half are conjugates, so nothing is lost but one of them at most.")


if __name__ == "__main__":
    main()
