"""What the scripts beside this one share: calls that must fail, and the sections that their command lines name."""

import sys

from jumpstarter.utils.env import env


def raises(kind, text, function, *args, **named):
    """The call fails with this exception (a class, or its name) and a text that contains `text`."""
    try:
        function(*args, **named)
    except BaseException as error:
        while isinstance(error, BaseExceptionGroup):  # what fails while a file is lent
            error = error.exceptions[0]
        names = [base.__name__ for base in type(error).__mro__]
        meant = kind if isinstance(kind, str) else kind.__name__
        assert meant in names and text in str(error), f"{meant} with {text!r} expected, not {error!r}"
        return
    raise AssertionError(f"no error; {kind} expected")


def drive(sections, of=lambda client, section: [client]):
    """Runs the sections that the command line names: SECTION[,ARGUMENT ...] ...

    The exporter is found by JUMPSTARTER_HOST. A section that returns has passed; a failed assertion ends the program with
    its traceback.
    sections: functions by their names, as globals() has them
    of: what a section gets before its arguments
    """
    kept = []  # What sections leave open ends with the program.
    with env() as client:
        for words in sys.argv[1:]:
            section, *arguments = words.split(",")
            kept.append(sections[section](*of(client, section), *arguments))
            print(f"passed {section}", flush=True)
