import subprocess
import sys


def test_export_stays_a_function_whatever_is_imported() -> None:
    code = (
        "import egeunet, egeunet.exporting.formats, inspect; from egeunet import export;"
        "assert inspect.isfunction(export) and egeunet.export is export"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
