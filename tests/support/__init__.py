"""Models, twins and checks that tests share; no test is here."""
