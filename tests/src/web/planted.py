"""What is planted: card numbers, mailboxes and social security numbers that tests look for where none may be."""


def card(number):
    """A valid card number (the last digit is Luhn's) that begins with 49297183."""
    digits = f"49297183{number:07d}"
    total = 0
    for index, digit in enumerate(int(digit) for digit in digits):
        doubled = digit * 2 if index % 2 == 0 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return digits + str(-total % 10)


def spaced(number):
    digits = card(number)
    return " ".join(digits[at : at + 4] for at in range(0, 16, 4))


def email(number):
    return f"customer{number}@planted.example"


def ssn(number):
    return f"918-27-{number % 10000:04d}"


# Beginnings of all of them, as they are written in any of the formats.
PREFIXES = [b"49297183", b"4929 7183", b"4929+7183", b"4929%207183", b"918-27-"]


def leaks(text):
    """What of it stands in text."""
    import re
    found = [prefix.decode() for prefix in PREFIXES if prefix in text]
    return found + [match.decode() for match in re.findall(rb"customer[0-9]+(?:@|%40)planted", text)[:3]]


def customers(count):
    return [
        {"id": n, "name": f"Grace {n}", "email": email(n), "card": spaced(n) if n % 2 else card(n), "ssn": ssn(n)}
        for n in range(1, count + 1)
    ]
