"use strict";
eigenbank.show();
